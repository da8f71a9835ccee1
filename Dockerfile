# One image for the three processes. docker-compose.yml sets the command and the health check of each.

FROM python:3.13-slim AS dependencies
WORKDIR /build
COPY pyproject.toml requirements.lock ./
# Installs uv, then only the runtime dependencies. Versions and hashes come from the lock.
RUN awk '/^[^ #]/ { keep = /^uv==/ } keep' requirements.lock > uv.lock.txt \
    && pip install --no-cache-dir --no-deps --require-hashes -r uv.lock.txt \
    && uv venv /venv \
    && uv pip install --python /venv/bin/python --no-cache --compile-bytecode --only-binary :all: \
        --require-hashes -r pyproject.toml --constraint requirements.lock

FROM python:3.13-slim
RUN useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin store
COPY --from=dependencies /venv /venv
WORKDIR /srv
COPY commands commands
COPY context context
COPY queries queries
COPY replies replies
COPY projections projections
COPY domain domain
COPY infrastructure infrastructure
COPY scripts scripts
RUN python -m compileall -q .
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# A number: orchestrators that refuse root cannot look up a name.
USER 10001
EXPOSE 8001 8002 9100
CMD ["python", "-m", "commands.main"]
