"""Video data, without paddle: decode -> sample -> transform -> dataset -> loader."""
