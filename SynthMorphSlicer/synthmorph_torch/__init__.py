"""SynthMorph brain registration in PyTorch: an engine that knows nothing about screens or Slicer."""
