"""Problems with known results, on which searchers are compared: `catalogue.get` makes one by its name."""
