"""Search problems whose answers are known or cheap: tables, surrogates and a planted function."""
