# docker build --tag suffice --build-arg INDEX=URL .    on the processor; URL is that of the CPU line of pytorch.org/get-started
# docker build --tag suffice-cuda .                     on a GPU, with torch's own CUDA libraries
# docker run --rm -v "$PWD:/work" suffice explain cat.jpg --out results
FROM python:3.12-slim
ARG INDEX=
RUN useradd --create-home suffice
COPY . /src
RUN if [ -n "$INDEX" ]; then pip install --no-cache-dir torch torchvision --index-url "$INDEX"; fi \
    && pip install --no-cache-dir "/src[demo,onnx,hf]" \
    && rm -rf /src
USER suffice
WORKDIR /work
ENTRYPOINT ["suffice"]
CMD ["--help"]
