# syntax=docker/dockerfile:1
# One image for all of Daybook's processes: which one it is, the command says (docker-compose.yml, deploy/kubernetes).
# What we install is pinned by hash; the base follows the patches of its minor version.

FROM python:3.11-slim-bookworm AS python
ENV PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore

# Swagger UI, so that /docs needs no internet: the jar that the local stack uses too, pinned by its SHA-256. Only this
# throw-away stage has what fetches it.
FROM python AS swagger
WORKDIR /build
COPY requirements.lock ./
RUN --mount=type=cache,target=/root/.cache/pip pip install --require-hashes --only-binary :all: -r requirements.lock
COPY daybook ./daybook
RUN python -c "from pathlib import Path; from daybook.stack.jars import unpack_swagger; unpack_swagger(Path('/swagger'), print)"

FROM python AS build
WORKDIR /build
RUN python -m venv /opt/daybook
ENV PATH=/opt/daybook/bin:$PATH
COPY requirements-run.lock deploy/docker/requirements-build.lock ./
RUN --mount=type=cache,target=/root/.cache/pip pip install --require-hashes --only-binary :all: -r requirements-run.lock
RUN --mount=type=cache,target=/root/.cache/pip python -m venv /opt/builder \
    && /opt/builder/bin/pip install --require-hashes --only-binary :all: -r requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY shared_kernel ./shared_kernel
COPY command_service ./command_service
COPY query_service ./query_service
COPY projections ./projections
COPY daybook ./daybook
RUN /opt/builder/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --no-index --wheel-dir /wheel . \
    && pip install --no-cache-dir --no-deps --no-index --compile /wheel/*.whl \
    && pip uninstall --yes pip setuptools

FROM python AS daybook
LABEL org.opencontainers.image.title="Daybook" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --system --gid 10001 daybook \
    && useradd --system --uid 10001 --gid daybook --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin daybook
COPY --from=build /opt/daybook /opt/daybook
COPY --from=swagger /swagger /opt/daybook/swagger
COPY deploy/docker/healthcheck.py /opt/daybook/healthcheck.py
# Nothing is written at run time: the root file system may be read-only. No DAYBOOK_ variable is set here, because each
# process refuses the ones that are not its own.
ENV PATH=/opt/daybook/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /opt/daybook
HEALTHCHECK --interval=5s --timeout=4s --start-period=30s --retries=3 CMD ["python", "/opt/daybook/healthcheck.py"]
CMD ["daybook", "--help"]
