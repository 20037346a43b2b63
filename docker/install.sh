#!/bin/sh
# Install what the plugin imports into a folder: install.sh FOLDER [option of pip]...
#
# What is needed is said by pyproject.toml, the queue in PostgreSQL included, and at which version by
# requirements.txt, both in the working directory; nothing that only training or tests need.
set -eu
folder=$1
shift
needed=$(mktemp)
python3 -c 'import tomllib
with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
needed = project["dependencies"] + project["optional-dependencies"]["postgresql"]
print(*needed, sep="\n")' > "$needed"
python3 -m pip install --no-cache-dir --disable-pip-version-check --target "$folder" \
    --constraint requirements.txt --requirement "$needed" "$@"
rm "$needed"
