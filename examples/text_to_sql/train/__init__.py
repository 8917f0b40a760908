"""Makes the bundled model: question grammar, data sets, tokenizer, training and offline evaluation."""
