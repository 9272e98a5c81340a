"""From a torch model to files that need no torch: ONNX graphs, and the proof that they compute the same."""
