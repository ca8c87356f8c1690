"""From evidence to a cause of the catalogue, and its proof."""
