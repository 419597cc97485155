"""Data and runs that live in S3, HDFS and the like: stores behind one protocol, a cache, and what fills it."""
