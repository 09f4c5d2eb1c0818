"""Constants of nature that several rooms share."""

MU_WATER = 0.02  # linear attenuation of water, 1/mm, at about 70 keV
