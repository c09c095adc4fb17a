"""Other libraries' names and layouts over our stages."""
