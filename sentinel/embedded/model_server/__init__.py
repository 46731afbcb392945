"""A small model server with vLLM's endpoints: transformers and PEFT on the CPU, for demonstrations and tests.

One process, one model, LoRA adapters loaded and unloaded while it answers. `app` has the endpoints, `engine` the
thread that runs the model, `batch` the tensors, `adapters` what may be loaded.
"""
