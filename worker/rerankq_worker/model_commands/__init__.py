"""What is said and done about models before they serve: the verbs of `rerankq model`."""
