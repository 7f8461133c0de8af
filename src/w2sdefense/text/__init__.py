"""Operations on strings: insertion, rewriting, paraphrase files, chat templates."""
