"""A trained model as a server: images in, their likeliest classes out, over HTTP. Only `cli` imports it."""
