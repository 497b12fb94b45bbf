#!/bin/sh
# Send two rows over HTTP and print the reply: a score and a decision for each.
#
#   ./client_http.sh [HOST:PORT [MODEL]]       needs curl
set -eu
curl --silent --show-error --fail-with-body "http://${1:-localhost:9002}/v2/models/${2:-detector}/infer" --data @- << END
{"inputs": [{"name": "input", "datatype": "FP32", "shape": [2, 4],
             "data": [[1950, 4.25, 55.0, 1.65], [1950, 4.25, 55.0, 3.20]]}]}
END
echo
