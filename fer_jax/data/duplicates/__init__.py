"""Images that show one photograph: how they are found, and what is reported."""
