# docker build -t ctr . && docker run --rm -v "$PWD/data:/work/data" ctr dataset=criteo dataset.source=sample
FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
# The CPU build: the default one of Linux brings gigabytes of CUDA along.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /src
COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE ./
COPY ctr ctr
COPY configs configs
RUN pip install --no-cache-dir --extra-index-url "${TORCH_INDEX}" ".[sweep,report]"
WORKDIR /work
ENTRYPOINT ["python", "-m", "ctr.train"]
CMD ["dataset=criteo", "dataset.source=sample", "opt=group_adam"]
