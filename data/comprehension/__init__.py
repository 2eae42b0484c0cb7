"""Documents into reading comprehension: tasks mined from a text by rule, composed behind it."""
