# An exported model, without torch: docker build -f packaging/runtime.Dockerfile -t knowngood-runtime .
# One that brings parts to a pose needs SciPy: --build-arg ALSO=scipy.
FROM python:3.12-slim AS build
WORKDIR /build
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
COPY packaging/trim.sh .
ARG ALSO=""
# Without dependencies: ONNX Runtime runs without its flatbuffers, packaging and protobuf.
RUN pip install --no-cache-dir --no-compile --no-deps --target /opt/knowngood --constraint constraints.txt \
        . onnxruntime numpy pillow ${ALSO} \
    && rm -rf /opt/knowngood/bin \
    && sh trim.sh /opt/knowngood \
    && PYTHONPATH=/opt/knowngood python -c "import knowngood.runtime.__main__, onnxruntime"

FROM python:3.12-slim
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin knowngood
COPY --from=build /opt/knowngood /opt/knowngood
ENV PYTHONPATH=/opt/knowngood PYTHONDONTWRITEBYTECODE=1
USER 10001
# It answers and ends, so that there is nothing to ask for its health.
HEALTHCHECK NONE
ENTRYPOINT ["python", "-m", "knowngood.runtime"]
CMD ["--help"]
