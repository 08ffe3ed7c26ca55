# marey in a container, from the versions of requirements.txt.
#
#   docker build -t marey:local .
#   docker run --rm --shm-size=8g --user "$(id -u):$(id -g)" -v "$PWD":/data marey:local index videos -o index.parquet
#
# torch's wheels bring CUDA, so that this image uses GPUs too (--gpus all). To stand on a CUDA image:
#
#   docker build -t marey:local --build-arg BASE=nvidia/cuda:13.0.2-runtime-ubuntu24.04 .
#
# Ray keeps decoded frames in shared memory: give it more than Docker's 64 MB (--shm-size).
ARG BASE=python:3.13-slim-bookworm
FROM ${BASE} AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]

# A CUDA base has no Python of its own: Ubuntu's is taken, and checked as `make setup` checks it.
# hadolint ignore=DL3008
RUN if ! command -v python3 >/dev/null || ! python3 -c 'import ensurepip' 2>/dev/null; then \
        apt-get update && \
        apt-get install --yes --no-install-recommends python3 python3-venv && \
        rm -rf /var/lib/apt/lists/*; \
    fi && \
    python3 -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 15) else "marey needs CPython 3.11 to 3.14")'

WORKDIR /build
COPY requirements.txt ./
# Of the lock only what marey needs to run is kept: the tools of its developers stay out.
COPY pyproject.toml README.md LICENSE ./
COPY marey marey
COPY configs configs
COPY models models
COPY pipeline pipeline
COPY trackers trackers
RUN python3 -m venv /opt/marey && \
    /opt/marey/bin/python -m pip install --no-cache-dir --disable-pip-version-check "$(grep '^uv==' requirements.txt)" && \
    /opt/marey/bin/uv pip install --no-cache --compile-bytecode --python /opt/marey/bin/python \
        --constraints requirements.txt --build-constraints requirements.txt . && \
    /opt/marey/bin/python -m pip uninstall --quiet --yes uv

# hadolint ignore=DL3006
FROM ${BASE}
# hadolint ignore=DL3008
RUN if ! command -v python3 >/dev/null; then \
        apt-get update && \
        apt-get install --yes --no-install-recommends python3 && \
        rm -rf /var/lib/apt/lists/*; \
    fi
COPY --from=build /opt/marey /opt/marey
# Whoever runs it (--user) needs a name and a home for caches.
ENV PATH=/opt/marey/bin:$PATH PYTHONUNBUFFERED=1 HOME=/tmp USER=marey
USER 1000:1000
WORKDIR /data
ENTRYPOINT ["marey"]
CMD ["--help"]
