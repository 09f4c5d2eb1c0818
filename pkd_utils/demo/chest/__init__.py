"""The embedded chest cohort, in the layout of MIMIC-CXR-JPG, MIMIC-CXR, MIMIC-IV and MS-CXR."""
