# The daemon, without torch. Build: docker build -t sentinel-loop .
# The trainer, with it:          docker build --target trainer -t sentinel-loop-trainer .
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

# torch is pinned by version only, since its build depends on the machine: the ordinary build brings CUDA's libraries.
# For the processor alone: --build-arg TORCH_BUILD=+cpu, with the place that has it as PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS.
FROM build AS build-trainer
ARG TORCH_BUILD=
ARG PIP_EXTRA_INDEX_URL=
ARG PIP_FIND_LINKS=
RUN torch="$(grep '^torch==' requirements/torch.in)${TORCH_BUILD}" \
    && /opt/sentinel/bin/pip install --only-binary :all: "$torch" \
    && /opt/sentinel/bin/pip install --require-hashes --only-binary :all: -r requirements/models.txt \
    && /opt/sentinel/bin/pip check

FROM ${PYTHON_IMAGE} AS trainer
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin sentinel \
    # A fresh volume takes these owners. Adapters are readable by the group, of which the engine must be a member.
    && install -d -o sentinel -g sentinel -m 0750 /var/lib/sentinel /var/lib/sentinel/runs /var/lib/sentinel/models \
    && install -d -o sentinel -g sentinel -m 2750 /var/lib/sentinel/adapters
COPY --from=build-trainer /opt/sentinel /opt/sentinel
ENV PATH=/opt/sentinel/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HF_HOME=/var/lib/sentinel/models
USER 10001:10001
WORKDIR /var/lib/sentinel
VOLUME ["/var/lib/sentinel/runs", "/var/lib/sentinel/adapters", "/var/lib/sentinel/models"]
# training.kill_grace_s for a run or a promotion, then its last words: stop with a timeout of 75 s.
STOPSIGNAL SIGTERM
ENTRYPOINT ["sentinel"]
CMD ["trainer"]

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
