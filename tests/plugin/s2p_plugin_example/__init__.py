"""One of each thing that a plug-in can bring to s2p-mobile."""
