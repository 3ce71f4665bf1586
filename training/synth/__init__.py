"""Images of people with exact truth: Anny's bodies in captured motion, dressed, lit and photographed."""
