"""The engine that writes with a Hugging Face model in this process: one prefill, one batch, rows that come and go."""
