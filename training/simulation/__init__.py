"""The parts of the transaction simulator; `training.simulate` puts them together."""
