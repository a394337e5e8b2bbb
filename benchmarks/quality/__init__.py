"""Quality: whether words and voice are right, judged by a recogniser."""
