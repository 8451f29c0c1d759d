# The service as an image: no compiler, no torch, no package installer's cache; runs as any user on a read-only root.

FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
COPY requirements/serve.txt /requirements.txt
RUN python -m venv --without-pip /venv \
    && python -m pip --python /venv/bin/python install --quiet --require-hashes --only-binary :all: -r /requirements.txt
ENV PATH=/venv/bin:$PATH ORT_DISABLE_TELEMETRY=1
WORKDIR /app
COPY models models
COPY service service
# Compiles the feature kernel into service/features/__pycache__, so that no container does; stops at the first thing amiss.
RUN python -m service warm

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="Touchstone" \
      org.opencontainers.image.description="Real-time fraud scoring for payments" \
      org.opencontainers.image.licenses="Apache-2.0"
# Numeric, so that Kubernetes can see that it is not root. The directory is there for volumes to take their owner from.
RUN install -d -o 65532 -g 65532 /var/lib/touchstone
COPY --from=build /venv /venv
COPY --from=build /app /app
COPY LICENSE /app/
ENV PATH=/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 \
    TOUCHSTONE_HOST=0.0.0.0 \
    TOUCHSTONE_PORT=8000 \
    TOUCHSTONE_STATE_DIR=/var/lib/touchstone
WORKDIR /app
USER 65532:65532
VOLUME /var/lib/touchstone
EXPOSE 8000
HEALTHCHECK --interval=3s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"TOUCHSTONE_PORT\"]}/health/ready', timeout=2)"]
ENTRYPOINT ["python", "-m", "service"]
