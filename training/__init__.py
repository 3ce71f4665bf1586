"""Training of METRO: images and bodies in, a bundle out. Needs torch; nothing at run time imports it."""
