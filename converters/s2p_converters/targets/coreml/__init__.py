"""Core ML: ML Programs for iPhone, iPad and Mac."""
