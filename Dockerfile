# One stage builds, the other runs: no compiler, no pip cache and no source tree in the result.
# PYTHON_IMAGE can name a mirror or pin a digest; both stages must share one interpreter.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
WORKDIR /build
# The gateway's environment gets no pip of its own; the tools stay in an environment left behind.
RUN python3 -m venv /opt/tools && python3 -m venv --without-pip /opt/gateway
COPY requirements/build.lock requirements/base.lock requirements/
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/tools/bin/pip install --require-hashes --only-binary :all: -r requirements/build.lock \
    && /opt/tools/bin/pip --python /opt/gateway/bin/python \
        install --require-hashes --only-binary :all: -r requirements/base.lock
COPY pyproject.toml README.md LICENSE ./
COPY config config
COPY gateway gateway
RUN /opt/tools/bin/hatchling build --target wheel --directory /dist \
    && /opt/tools/bin/pip --python /opt/gateway/bin/python \
        install --no-cache-dir --no-deps --no-index --find-links /dist seedance-gateway

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="Seedance Gateway" \
      org.opencontainers.image.description="A reverse proxy for Seedance video generation" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/gateway /opt/gateway
# Everything that is written lies here, so the root can be mounted read-only.
RUN install --directory --owner=10001 --group=10001 --mode=0700 /data
# The byte code is compiled already: nothing is written beside it.
ENV PATH=/opt/gateway/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    GATEWAY_DATA_DIR=/data \
    GATEWAY_SERVER__HOST=0.0.0.0
WORKDIR /data
VOLUME ["/data"]
# Numeric, so that Kubernetes can prove that it is not root.
USER 10001:10001
EXPOSE 8080 9090
STOPSIGNAL SIGTERM
# http.client, because urllib would follow a proxy named in the environment.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import http.client, os; c = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('GATEWAY_SERVER__PORT') or os.environ.get('PORT') or 8080), timeout=4); c.request('GET', '/livez'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["seedance-gateway"]
CMD ["serve"]
