"""The embedded mammograms, in the layout of CBIS-DDSM."""
