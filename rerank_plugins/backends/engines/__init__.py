"""What turns pairs of texts into logits on this machine; one module per engine."""
