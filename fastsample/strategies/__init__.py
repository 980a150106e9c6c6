"""How many texts are grown for a question, and what is made of them: one file a strategy."""
