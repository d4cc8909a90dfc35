"""Reports that people look at: the catalogue of them, and the page that shows them all."""
