"""Other libraries' names and layouts over our stages, and our call over theirs."""
