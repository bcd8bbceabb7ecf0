"""The documentation site: pages that are written from the code when the site is built."""
