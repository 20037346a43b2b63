#!/bin/sh
# A worker node with the configuration that Orthanc has in this image: node.sh [option of the node]...
#
# The image's own script makes /tmp/orthanc.json of /etc/orthanc/*.json and the environment.
set -eu
cd /startup
python3 generateConfiguration.py
cd /opt/oar
exec python3 -m plugin.node /tmp/orthanc.json "$@"
