"""The paper's figures, drawn from records: runs enter, drawings leave."""
