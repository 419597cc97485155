#!/bin/sh
# Trains {{ recipe }} into {{ output }}
# Written by `imagesprint launch sagemaker`, to be read and changed. `sh FILE` creates the job, in the region and
# account that `aws configure` or AWS_REGION and AWS_PROFILE name. While it trains, SageMaker copies /opt/ml/checkpoints
# to the S3Uri below; run this again, and the next job goes on from there.
#
# {{ forecast }}
#
# To be filled in: {{ missing }}

# A job's name cannot be used twice: the time is put behind it.
create() {
    aws sagemaker create-training-job --training-job-name "$1-$(date +%Y%m%d-%H%M%S)" --cli-input-json "$(cat)"
}

create {{ name }} <<'JSON'
{{ request }}
JSON
