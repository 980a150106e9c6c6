"""vLLM: its engine in this program (`engine`), and our draw inside it (`draw`). A server of it is engines/openai's."""
