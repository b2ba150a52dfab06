"""Whether results agree: with each other, and with the rows that they are made from."""
