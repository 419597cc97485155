"""Where images come from: one module a form in which they are downloaded, all behind `Source`."""
