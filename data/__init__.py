"""Everything up to the batch: read, convert, tokenize, pack, mix."""
