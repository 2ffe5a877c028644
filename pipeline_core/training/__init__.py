"""What makes the starter priors and the judge: data, trainers, checkpoints. Making an asset loads none of it."""
