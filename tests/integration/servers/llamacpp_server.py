"""llama.cpp's HTTP server: `python llamacpp_server.py rank|chat MODEL.gguf PORT [KEY]`.

Runs in the server's own environment; the package `xllamacpp` carries the server.
"""

import signal
import sys

import xllamacpp

parameters = xllamacpp.CommonParams()
task, parameters.model.path = sys.argv[1:3]
parameters.hostnames = ["127.0.0.1"]
parameters.port = int(sys.argv[3])
parameters.api_keys = sys.argv[4:]
if task == "rank":
    parameters.embedding = True
    parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
parameters.n_parallel = 4
parameters.n_ctx = 2048 if task == "rank" else 1024 * parameters.n_parallel
parameters.n_batch = parameters.n_ubatch = 512  # a pair must fit into one batch
# Flash attention rounds to 16 bits, and a score would depend on what else is in its batch.
parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
parameters.warmup = False
parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 2

server = xllamacpp.Server(parameters)  # listens from here on, in its own threads
signal.sigwait([signal.SIGINT, signal.SIGTERM])
