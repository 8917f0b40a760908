"""Operations on tensors that the decoder is made of. Each file stands alone: shapes, and its torch reference."""
