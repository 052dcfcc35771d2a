"""Who proposes the next trials: random search, evolution, REINFORCE, predictor + REINFORCE."""
