"""Other people's searchers behind one thin ask/tell interface; each needs its own package (see make_env.sh)."""
