# The daemon, without torch. Build: docker build -t sentinel-loop .
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY requirements/ requirements/
# The dependencies first: they change less often than the code.
RUN python -m venv /opt/sentinel \
    && /opt/sentinel/bin/pip install --require-hashes --only-binary :all: -r requirements/runtime.txt
# The wheel is built with the locked build backend, in an environment that stays behind.
RUN python -m venv /opt/build \
    && /opt/build/bin/pip install --require-hashes --only-binary :all: -r requirements/dev.txt
COPY . .
RUN /opt/build/bin/python -m hatchling build --target wheel \
    && /opt/sentinel/bin/pip install --no-deps --no-index dist/*.whl \
    && /opt/sentinel/bin/pip check \
    && /opt/sentinel/bin/python -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is not None)"

FROM ${PYTHON_IMAGE}
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin sentinel
COPY --from=build /opt/sentinel /opt/sentinel
ENV PATH=/opt/sentinel/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /
EXPOSE 8000
# Intake stops within 5 s, work drains for 45 s, the last flush has 10 s: stop with a timeout of 70 s.
STOPSIGNAL SIGTERM
ENTRYPOINT ["sentinel"]
CMD ["run"]
