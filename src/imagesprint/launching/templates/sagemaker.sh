#!/bin/sh
# Trains {{ recipe }} into {{ output }}
# Written by `imagesprint launch sagemaker`, to be read and changed. `sh FILE` creates the job, in the region and
# account that `aws configure` or AWS_REGION and AWS_PROFILE name. While it trains, SageMaker copies /opt/ml/checkpoints
# to the S3Uri below; a job with the same S3Uri and another name goes on from there.
#
# {{ forecast }}
#
# To be filled in: {{ missing }}
create() { aws sagemaker create-training-job --cli-input-json "$(cat)"; }

create <<'JSON'
{{ request }}
JSON
